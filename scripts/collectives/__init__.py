"""What programs on several devices send each other: counted, and what it should take."""
