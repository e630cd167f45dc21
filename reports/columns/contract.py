"""What the clock covered, and what really ran."""

from __future__ import annotations

from reports.columns.column import Column

CONTRACT = (
    "contract_clock",
    "contract_copies",
    "contract_synchronised",
    "contract_io_binding",
    "contract_threads",
    "contract_precision",
    "contract_start",
    "contract_allocator",
)
"""Columns that must agree before two latencies are ranked against each other."""
FAIRNESS: tuple[Column, ...] = (
    Column(
        "contract_clock",
        "string",
        "",
        "Clock: host (perf_counter_ns) or cuda-events.",
    ),
    Column(
        "contract_copies",
        "string",
        "",
        "Copies to and from the device: none (host arrays already), excluded or included.",
    ),
    Column("contract_synchronised", "bool", "", "A sample ends with its result finished."),
    Column("contract_io_binding", "bool", "", "Inputs and outputs are bound before the clock."),
    Column("contract_threads", "int", "threads", "Intra-op threads, as verified."),
    Column("contract_precision", "string", "", "What arithmetic a float32 operation may use."),
    Column("contract_start", "string", "", "warm or cold."),
    Column(
        "contract_allocator",
        "string",
        "",
        "The worker's C allocator and the sizes from which it maps blocks and returns memory.",
    ),
)
PROOF: tuple[Column, ...] = (
    Column("providers", "json", "", "Execution provider or device -> nodes that it ran."),
    Column("kernels", "json", "", "Kernel or operator type in the optimised graph -> count."),
    Column("integer_kernels", "int", "nodes", "Nodes whose multiplications run on integers."),
    Column("casts", "int", "nodes", "Cast, QuantizeLinear and DequantizeLinear nodes left."),
    Column("graph_breaks", "int", "", "Graph breaks of torch.compile."),
    Column("attention_kernel", "string", "", "The attention kernel that ran."),
    Column("fallback", "string", "", "What ran elsewhere or otherwise than asked. Null: nothing."),
)
