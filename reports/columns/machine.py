"""What surrounded the calls: the machine, and the energy that they took."""

from __future__ import annotations

from reports.columns.column import Column

MACHINE: tuple[Column, ...] = (
    Column(
        "disturbed_samples",
        "int",
        "calls",
        "Samples during which the machine is known to have been disturbed. Flagged, not removed.",
    ),
    Column(
        "disturbed_by",
        "json",
        "",
        "Cause -> samples that it disturbed: load (other processes), throttled (the processor's "
        "count of thermal events rose), speed (the machine itself was slower than it can be), "
        "frequency (more than 10 % below what a quarter of the cell's blocks reached), gpu-... "
        "(what NVML says holds the clock down).",
    ),
    Column(
        "machine_others_cores",
        "float",
        "cores",
        "CPU time of all other processes during the cell's kept blocks, stolen time included, over "
        "the blocks' time.",
    ),
    Column(
        "machine_steal_cores",
        "float",
        "cores",
        "What of it the hypervisor gave to other machines.",
    ),
    Column(
        "machine_waiting_cores",
        "float",
        "cores",
        "Threads of the worker that were ready to run and waited for a CPU, on average over the "
        "kept blocks. More threads than cores wait for one another.",
    ),
    Column(
        "machine_preemptions_per_s",
        "float",
        "1/s",
        "How often in a second of the kept blocks a thread of the worker had to give its CPU to "
        "somebody else (involuntary context switches).",
    ),
    Column(
        "machine_switches_per_s",
        "float",
        "1/s",
        "How often a thread of the worker gave it up by itself (voluntary context switches).",
    ),
    Column(
        "machine_pressure",
        "float",
        "share",
        "Share of the whole phase, other cells' turns included, in which some task of the machine "
        "waited for a CPU (pressure stall information, renewed every two seconds).",
    ),
    Column(
        "machine_speed",
        "float",
        "share",
        "Speed of the machine at the ends of the kept blocks, by a fixed piece of work on all "
        "threads: 1 is what it usually reaches. Less where others use what cores share, which "
        "shows in no other figure of a virtual machine. Null until it is known.",
    ),
    Column(
        "machine_waited_s",
        "float",
        "s",
        "How long the turns of the workload's cells, all together, were put off because the "
        "machine was slow.",
    ),
    Column(
        "machine_frequency_mhz",
        "float",
        "MHz",
        "Clock of the fastest CPU just after a block, median of the kept blocks. Null where a "
        "virtual machine is told a constant.",
    ),
    Column(
        "machine_throttle_events",
        "float",
        "events",
        "Thermal throttling events of all cores and packages during the kept blocks.",
    ),
    Column(
        "machine_temperature_c",
        "float",
        "C",
        "Hottest sensor of the processor at the ends of the kept blocks.",
    ),
    Column(
        "machine_gpu_clock_mhz",
        "float",
        "MHz",
        "Clock of the GPU's multiprocessors just after a block, median of the kept blocks.",
    ),
    Column(
        "machine_gpu_power_cap_w",
        "float",
        "W",
        "Lowest power limit in force on the GPU at the ends of the kept blocks.",
    ),
    Column(
        "machine_gpu_temperature_c",
        "float",
        "C",
        "Hottest reading of the GPU at the ends of the kept blocks.",
    ),
)
ENERGY: tuple[Column, ...] = (
    Column(
        "energy_j_per_sample",
        "float",
        "J/example",
        "Mean power while calls are made back to back, over the examples finished in a second. Of "
        "the whole packages or GPU (energy_source), other processes and idle power included. Never "
        "taken while single calls are timed. Null where no counter can be read.",
    ),
    Column("energy_power_w", "float", "W", "That mean power."),
    Column(
        "energy_idle_w",
        "float",
        "W",
        "Mean power of the same counters before the phase, with every worker stopped.",
    ),
    Column("energy_source", "string", "", "The counters that energy_j_per_sample adds up."),
    Column(
        "energy_absent",
        "string",
        "",
        "Why a counter of energy could not be read. Null when all could.",
    ),
)
