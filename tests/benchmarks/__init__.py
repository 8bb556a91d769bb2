"""Benchmarks: run by hand, each a module with a ``--help``; none of them is a test."""
