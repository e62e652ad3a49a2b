"""Running exported models behind one interface, whoever executes them."""
