"""For the person who has to trust it: calibrate on a log, and see what a policy would have done."""
