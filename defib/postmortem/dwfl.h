// elfutils' interface, for the few files that use it. Thread rule: one thread at a time.

#pragma once

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <elfutils/libdwfl.h>
