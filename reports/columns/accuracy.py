"""How right the answers are."""

from __future__ import annotations

from reports.columns.column import Column

ACCURACY: tuple[Column, ...] = (
    Column("task", "string", "", "The task whose test split was scored. Null without one."),
    Column("metric", "string", "", "Name of the task's metric."),
    Column("metric_value", "float", "", "The metric of this build on the test split."),
    Column("metric_reference", "float", "", "The metric of the fp32 torch model, same examples."),
    Column("accuracy", "float", "share", "Share of right answers, 0..1, where the task has one."),
    Column(
        "accuracy_drop",
        "float",
        "share",
        "How much worse than the reference on the task's metric, on the same examples: of "
        "accuracy, the difference (0.01 is a point); of bits per byte, the rise relative to the "
        "reference's. Positive is worse.",
    ),
    Column(
        "accuracy_drop_low",
        "float",
        "share",
        "Lower end of the two-sided 95 % paired interval of accuracy_drop.",
    ),
    Column(
        "accuracy_drop_high",
        "float",
        "share",
        "Upper end of the two-sided 95 % paired interval of accuracy_drop.",
    ),
    Column(
        "accuracy_drop_bound",
        "float",
        "share",
        "One-sided 95 % upper bound of accuracy_drop: what a release is judged by.",
    ),
    Column("examples", "int", "examples", "Test examples scored."),
    Column("flips", "int", "examples", "Examples that this build and the reference score unlike."),
    Column(
        "top1_agreement",
        "float",
        "share",
        "Share of predictions that equal the reference's, right or wrong.",
    ),
    Column(
        "fidelity_predictions",
        "int",
        "predictions",
        "Predictions of one call that were compared with the reference's before the clock started: "
        "what top1_agreement rests on where there is no task.",
    ),
    Column(
        "kl_divergence",
        "float",
        "nats",
        "Mean Kullback-Leibler divergence of this build's prediction from the reference's.",
    ),
    Column(
        "relative_error",
        "float",
        "",
        "Euclidean norm of the outputs' difference from the reference, over the reference's.",
    ),
    Column("perplexity", "float", "", "exp of the mean negative log likelihood of a token."),
    Column(
        "bits_per_byte",
        "float",
        "bits/byte",
        "Total negative log likelihood over the text's bytes.",
    ),
)
CORRECTNESS: tuple[Column, ...] = (
    Column(
        "max_abs_error", "float", "", "Largest absolute difference from the reference's output."
    ),
    Column("max_rel_error", "float", "", "That difference over the reference's largest magnitude."),
    Column("tolerance", "float", "", "Largest error that the recipe declares as right."),
)
