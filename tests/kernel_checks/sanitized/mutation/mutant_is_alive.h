// In the program that holds all mutants (mutants.py), whether this one is wrong in this run.
#pragma once

bool mutant_is_alive(int number);
