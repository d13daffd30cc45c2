"""What layers share: the front door, and the parts that more than one of them is made of."""
