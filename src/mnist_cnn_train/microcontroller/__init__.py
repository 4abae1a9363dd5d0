"""The network in integer arithmetic, as a C header for microcontrollers."""
