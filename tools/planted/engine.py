"""Bugs of the reference engine."""

ENGINE = "defib/engine/engine.cc"

BUGS = [
    ("reading in turn uses up a small budget", "SyncInterval.*", [
        (ENGINE, "  return std::max(wished, model.limit.per_unit() * kShare * cost);\n",
         "  return model.limit.per_unit() * kShare * cost > wished ? wished : wished;\n")]),
]
