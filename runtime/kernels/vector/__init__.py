"""How operators run on a vector unit: a file an operator, named as in ops; see ``simd``.

A file has ``build(unit)``, which returns the kernel as a function that Numba compiles: loops around
tiles (``_tiles``), whose instructions are the unit's. Imported only to compile.
"""
