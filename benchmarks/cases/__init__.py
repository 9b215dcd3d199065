"""What is timed: a module for each part. `cases(options)` of each is {name: a function
that builds the `measure.Case`}, with the options of `benchmarks.run`."""
