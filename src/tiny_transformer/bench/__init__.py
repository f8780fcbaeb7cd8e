"""How fast, beside whom: rates in turns, ratios in pairs, and a table."""
