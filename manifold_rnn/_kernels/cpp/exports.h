// Marks what the library shows to those who load it.

#pragma once

#define EXPORTED __attribute__((visibility("default")))
