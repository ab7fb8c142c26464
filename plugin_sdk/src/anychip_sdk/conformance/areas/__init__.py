"""The checks, a file an area. Each says since which suite version it counts, and for which level and profile."""
