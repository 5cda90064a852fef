"""Slow twins of losses over triplets, quadruplets and what a miner chose: exact.py says how. ORACLES: {name of LOSSES: function}.

BOUNDS: {name of LOSSES: function(loss, tensors, labels, dtype, tail)} that gives the errors that test_losses.py allows;
see `bounds` there.
"""

ORACLES = {}
BOUNDS = {}
