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
    Column(
        "memory_resident_bytes",
        "int",
        "bytes",
        "Resident set of the worker and its children after a call.",
    ),
    Column(
        "memory_children_bytes",
        "int",
        "bytes",
        "What of it the worker's children hold; pages that they share count for each.",
    ),
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
        "Largest resident set of the worker during one call. On CUDA the largest use of the "
        "allocator instead: torch's during one call, ONNX Runtime's from the opening of a second "
        "session to the end of its second call, loading included, so that the two are not to be "
        "compared. Null under load, of which it would not be.",
    ),
    Column(
        "memory_open_peak_bytes",
        "int",
        "bytes",
        "Largest resident set of the worker while it opened the artifact.",
    ),
    Column(
        "memory_throughput_peak_bytes",
        "int",
        "bytes",
        "Largest resident set of the worker while calls were made back to back.",
    ),
    Column(
        "memory_growth_bytes_per_call",
        "float",
        "bytes/call",
        "Growth of the worker's resident set from the first of the calls made back to back to the "
        "last, over their number: a leak. Negative where memory was given back. Less than a page "
        "(4 KiB) over all of the calls is not seen.",
    ),
    Column(
        "memory_reserved_bytes",
        "int",
        "bytes",
        "What the allocators hold after a call: the C allocator, on CUDA torch's or the arena of a "
        "second session of ONNX Runtime's.",
    ),
    Column("memory_in_use_bytes", "int", "bytes", "What of it is handed out after a call."),
    Column("memory_waste_bytes", "int", "bytes", "memory_reserved_bytes - memory_in_use_bytes."),
    Column("memory_waste_ratio", "float", "", "memory_waste_bytes / memory_reserved_bytes."),
    Column(
        "memory_arena_reserved_bytes",
        "int",
        "bytes",
        "What ONNX Runtime's own arena holds, in a second session with the same options after two "
        "calls. On a CPU memory_in_use_bytes counts all of it as in use.",
    ),
    Column(
        "memory_arena_peak_bytes",
        "int",
        "bytes",
        "The most of it that was in use, from the opening of that session on.",
    ),
    Column(
        "memory_device_active_bytes",
        "int",
        "bytes",
        "torch on CUDA: memory_in_use_bytes and blocks that still wait for a stream.",
    ),
    Column(
        "memory_device_process_bytes",
        "int",
        "bytes",
        "What the worker holds of the GPU in the driver's eyes (NVML): contexts and libraries "
        "included. Null in most containers, where NVML does not know the process.",
    ),
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
