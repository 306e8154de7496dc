"""How bytes leave: Hypercorn's own classes, guarded."""
