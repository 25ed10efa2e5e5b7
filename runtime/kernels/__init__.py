"""How each operator runs; one file an operator, named as in ops."""
