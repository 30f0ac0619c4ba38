"""What a stranger's workflow, file or server may try. `make test` runs a short form, `make attack` the long one."""
