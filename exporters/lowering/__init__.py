"""What a block becomes: integer operators, or float32 ones to compare with."""
