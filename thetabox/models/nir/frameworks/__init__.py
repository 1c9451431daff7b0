"""What each framework writes of its neurons, and what it computes of them; a file for each."""
