"""Does a method move the rows near the boundary more than the baseline does? From the counts of runs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from hf_elmix.analysis.comparison import compare, minimum_detectable_effect
from hf_elmix.analysis.frames import BLOCK
from hf_elmix.analysis.predictions import WHOSE, Predicted
from hf_elmix.predictions.cohorts import COHORTS, share_table

__all__ = ["flow_of", "moves_table", "pooled_transitions"]


def pooled_transitions(predicted: Predicted, methods: Sequence[str]) -> pd.DataFrame:
    """From the start to the end, over all runs of each method.

    Args:
        predicted: The counts.
        methods: In the order of the study.

    Returns:
        A row for each method that has any: ``runs``, the mean share of the training that was over at the ``start``,
        counts as `transition_table` has them, and the columns of `share_table`.
    """
    flows = predicted.flows
    rows = {}
    for method in methods:
        part = flows[flows["method"] == method]
        if len(part):
            flow = flow_of(predicted, method)
            counts = {f"{name}{end}": value for name in COHORTS for end, value in _ends(flow.loc[name]).items()}
            rows[method] = {"runs": part.groupby(BLOCK).ngroups, "start": part["start"].mean(), **counts}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    return table.join(share_table(table))


def flow_of(predicted: Predicted, method: str) -> pd.DataFrame:
    """`flow_table`, over all runs of a method.

    Args:
        predicted: The counts.
        method: One that has any.
    """
    sums = predicted.flows[predicted.flows["method"] == method].sum(numeric_only=True)
    counts = [[int(sums[f"{before}_{after}"]) for after in COHORTS] for before in COHORTS]
    return pd.DataFrame(counts, pd.Index(COHORTS, name="start"), pd.Index(COHORTS, name="end"))


def moves_table(predicted: Predicted, methods: Sequence[str], baseline: str, seed: int = 0) -> pd.DataFrame:
    """The share of the rows near the boundary at the start that end right, beside the baseline's.

    Whose rows they are matters. Rows near for ``both`` are chosen alike for the two methods. With each its ``own``
    rows, one may have easier rows. Rows that were chosen for being wrong under the ``baseline`` favour any other
    method: what is wrong by chance for one is less often wrong for another.

    Args:
        predicted: The counts.
        methods: In the order of the study.
        baseline: One of them.
        seed: Of the simulation behind ``visible``.

    Returns:
        A row for each of `WHOSE` and method but the baseline: the ``rows``, over all experiments; the mean over
        experiments of the method's ``share`` and of the baseline's, ``base_share``; what `compare` says of the
        difference; and the smallest true one that would be ``visible`` (`visible_effect`). Experiments in which one
        of the two has no such row are left out.
    """
    parts = {}
    for whose in WHOSE if len(predicted.moves) else ():
        moves = predicted.moves[predicted.moves["whose"] == whose]
        moves = moves[(moves["rows"] > 0) & (moves["base_rows"] > 0)]
        moves = moves.assign(share=moves["right"] / moves["rows"], base_share=moves["base_right"] / moves["base_rows"])
        others = [method for method in methods if method in set(moves["method"])]
        if others:
            means = moves.groupby("method").agg(
                rows=("rows", "sum"), share=("share", "mean"), base_share=("base_share", "mean")
            )
            gains = moves.assign(gain=moves["share"] - moves["base_share"]).pivot(
                index=BLOCK, columns="method", values="gain"
            )
            gains = gains[others].assign(**{baseline: 0.0})
            beside = compare(gains, baseline).assign(
                minimum_detectable_effect=minimum_detectable_effect(gains, baseline, seed)
            )
            parts[whose] = means.loc[others].join(beside)
    return pd.concat(parts, names=["whose"]) if parts else pd.DataFrame()


def _ends(flow: pd.Series) -> dict[str, int]:
    return {"": int(flow.sum()), "_end": int(flow["right"])}
