"""Experiments with recurrences: `python -m experiments`.

The package leaves room for others of its name: a folder `experiments/` of your own, anywhere on
the path of imports, keeps working beside it (`import experiments.mine`).
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
