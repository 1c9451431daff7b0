"""The interval domain: every value an interval, the margin one row over the last of them."""
