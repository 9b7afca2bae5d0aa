/* Values with their units, as people read them: 2870 ms is 2.87s, 1536 bytes are 1.50kB. */
#ifndef WEFT_PROTO_MEASURE_H
#define WEFT_PROTO_MEASURE_H

#include <stddef.h>
#include <stdint.h>

/* The unit to show a value in, so that it is at least 1: "ns us ms s hrs", "B kB MB GB TB PB",
 * and "" for what only counts things. `unit` is the profile's ("nanoseconds", "bytes", "count").
 * Static. */
const char *pb_unit_for(int64_t value, const char *unit);
/* One unit for a whole table: the smallest value keeps its digits unless it is less than a
 * hundredth of what fits the total. */
const char *pb_unit_for_all(int64_t smallest, int64_t total, const char *unit);
/* "2.87s"; two decimals, or none where they would be zero. shown is one of the names above. */
void pb_value_text(int64_t value, const char *unit, const char *shown, char *buf, size_t n);
/* " 4.53%", "  100%", "0.051%": six columns as pprof prints them. */
void pb_percent_text(int64_t value, int64_t total, char *buf, size_t n);

#endif
