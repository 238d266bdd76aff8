"""The GLUE study of the mixed loss: declarations and a command line. The engine is `hf_elmix.study`."""
