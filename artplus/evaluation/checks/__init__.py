"""Checks of whether the robust accuracy of an evaluation can be believed.

Each check is a function of a :class:`~artplus.evaluation.checks._probe.Probe`; :mod:`._run` lists
them and runs them.
"""
