"""The few-label benchmark, which ``tools/benchmark_few_labels.py`` runs: plan, runs, report."""
