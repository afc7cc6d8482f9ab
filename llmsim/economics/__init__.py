"""Economics: what a job costs in time, money and energy."""
