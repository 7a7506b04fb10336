"""The commands of `srpo`: each module has HELP, epilog(), add_arguments(parser) and main(args)."""
