"""Networks u(z, r, t, labels): ordinary torch code, written once.

Each uses only operations whose tangents the row-dual derivative knows, keeps the batch first, and never spells out the
batch size, so that the same forward carries a tangent of its leading rows.
"""
