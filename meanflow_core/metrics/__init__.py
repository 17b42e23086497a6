"""How far samples are from real data. Moments are float64; every figure is recorded with how it was made."""
