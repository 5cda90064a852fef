"""What everything stands on: errors, names, types of flags, files, devices. Imports nothing else of ours."""
