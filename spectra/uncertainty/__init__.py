"""How far an exponent can be trusted."""
