"""Bytes: of the artifact on disk and of the session in memory."""

from __future__ import annotations

from reports.columns.column import Column

SIZE: tuple[Column, ...] = (
    Column("artifact_bytes", "int", "bytes", "All files of the artifact, its manifest aside."),
    Column("artifact_ratio", "float", "", "artifact_bytes over those of the fp32 artifact."),
    Column(
        "weights_ratio",
        "float",
        "",
        "Bytes of the weights that were quantized, scales and zero points included, over the "
        "bytes of the same weights in fp32.",
    ),
)
MEMORY: tuple[Column, ...] = (
    Column("memory_weights_bytes", "int", "bytes", "Weights as the session holds them."),
    Column("memory_resident_bytes", "int", "bytes", "Resident set of the worker after a call."),
    Column(
        "memory_baseline_bytes",
        "int",
        "bytes",
        "Resident set of the worker with its libraries imported, before the artifact was opened.",
    ),
    Column(
        "memory_peak_bytes",
        "int",
        "bytes",
        "Largest resident set of the worker during one call (on CUDA: largest use of the "
        "allocator).",
    ),
    Column("memory_reserved_bytes", "int", "bytes", "What the allocators hold after a call."),
    Column("memory_in_use_bytes", "int", "bytes", "What of it is handed out after a call."),
    Column("memory_waste_bytes", "int", "bytes", "memory_reserved_bytes - memory_in_use_bytes."),
    Column("memory_waste_ratio", "float", "", "memory_waste_bytes / memory_reserved_bytes."),
    Column(
        "memory_minimum_bytes",
        "int",
        "bytes",
        "Theoretical minimum: weights, inputs and outputs of one call of this workload.",
    ),
    Column(
        "page_faults_per_call",
        "float",
        "pages",
        "Pages that the kernel supplied in each call made back to back: memory that the process "
        "gave back and took again. Each costs about a microsecond.",
    ),
)
