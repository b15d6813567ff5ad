"""The vocabulary of a check: cases, geometries, regimes, profiles.

In: nothing. Out: small frozen values, JSON both ways.
May import: errors.
"""
