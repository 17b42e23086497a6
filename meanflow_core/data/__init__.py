"""Real data and toys, all behind one small protocol."""
