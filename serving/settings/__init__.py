"""Every knob of the platform, as one frozen, validated tree.

Sections mirror packages, and unknown names are errors. `serving.adapters.settings_loader` reads
YAML, environment and `--set` into this tree once; everything else receives it as an argument.
Forbidden: reading files or the environment. Start with `platform.Settings`, the root.
"""
