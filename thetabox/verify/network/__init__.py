"""A module as graphs of operators; knows no interval."""
