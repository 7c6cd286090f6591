"""Preflight: checks that return findings, by group, and how a report of them reads."""
