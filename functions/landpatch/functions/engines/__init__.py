"""Where blocks are carried out: processes of this machine, or functions in the cloud."""
