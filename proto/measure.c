/* Units: which one a number is shown in, and how it is printed.
 *
 * The rules are those of `go tool pprof -top`, so that the same profile shows the same figures in
 * both: memory in steps of 1024, time in ns us ms s hrs, everything else is a bare count.
 *
 * Rejected: "days" (pprof has none) and rounding to three digits, which hides that two rows differ.
 *
 * No locks.
 */
#include "proto/measure.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct unit {
    const char *shown;
    double factor;
    const char *names[4];
} unit;

static const unit memory[] = {
    {"B", 1, {"b", "byte"}},
    {"kB", 1024, {"kb", "kilobyte", "kibibyte"}},
    {"MB", 1048576, {"mb", "megabyte", "mebibyte"}},
    {"GB", 1073741824, {"gb", "gigabyte", "gibibyte"}},
    {"TB", 1099511627776, {"tb", "terabyte", "tebibyte"}},
    {"PB", 1125899906842624, {"pb", "petabyte", "pebibyte"}},
};
static const unit duration[] = {
    {"ns", 1, {"ns", "nanosecond"}},
    {"us", 1e3, {"us", "microsecond", "\302\265s", "\316\274s"}},
    {"ms", 1e6, {"ms", "millisecond"}},
    {"s", 1e9, {"s", "sec", "second"}},
    {"hrs", 3600e9, {"hr", "hrs", "hour"}},
};

typedef struct family {
    const unit *v;
    size_t n;
} family;

static const family families[] = {{memory, sizeof memory / sizeof *memory},
                                  {duration, sizeof duration / sizeof *duration}};

/* "Bytes" is a byte: case and a plural s do not matter. */
static int names_unit(const unit *u, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof u->names / sizeof *u->names && u->names[i]; i++) {
        size_t len = strlen(u->names[i]);
        if (strncasecmp(name, u->names[i], len) == 0 &&
            (n == len || (n == len + 1 && len > 1 && (name[len] == 's' || name[len] == 'S'))))
            return 1;
    }
    return 0;
}

static const unit *find(const char *name, const family **fam)
{
    for (size_t k = 0; k < sizeof families / sizeof *families; k++)
        for (size_t i = 0; i < families[k].n; i++)
            if (names_unit(&families[k].v[i], name)) {
                *fam = &families[k];
                return &families[k].v[i];
            }
    return NULL;
}

static const char *best(double value, const char *name)
{
    const family *fam;
    const unit *u = find(name, &fam);
    if (!u)
        return "";
    const char *shown = fam->v[0].shown;
    for (size_t i = 0; i < fam->n; i++)
        if (fabs(value) * u->factor >= fam->v[i].factor)
            shown = fam->v[i].shown;
    return shown;
}

const char *pb_unit_for(int64_t value, const char *name)
{
    return best((double)value, name);
}

const char *pb_unit_for_all(int64_t smallest, int64_t total, const char *name)
{
    double low = fabs((double)(smallest ? smallest : total)), high = fabs((double)total);
    const char *shown = best(low, name);
    if (strcmp(shown, best(high, name)) != 0 && low * 100 < high)
        shown = best(low * 100, name);
    return shown;
}

void pb_value_text(int64_t value, const char *name, const char *shown, char *buf, size_t n)
{
    const family *fam;
    const unit *u = find(name, &fam);
    double factor = 1;
    for (size_t i = 0; u && i < fam->n; i++)
        if (strcmp(fam->v[i].shown, shown) == 0)
            factor = u->factor / fam->v[i].factor;
    if (!u || !value) {
        snprintf(buf, n, "%lld", (long long)value);
        return;
    }
    char digits[64];
    int len = snprintf(digits, sizeof digits, "%.2f", (double)value * factor);
    if (len > 3 && strcmp(digits + len - 3, ".00") == 0)
        digits[len - 3] = '\0';
    snprintf(buf, n, "%s%s", strcmp(digits, "0") == 0 ? "0" : digits, shown);
}

void pb_percent_text(int64_t value, int64_t total, char *buf, size_t n)
{
    double percent = total ? fabs((double)value / (double)total) * 100 : 0;
    if (percent >= 99.95 && percent <= 100.05)
        snprintf(buf, n, "  100%%");
    else if (percent >= 1)
        snprintf(buf, n, "%5.2f%%", percent);
    else
        snprintf(buf, n, "%5.2g%%", percent);
}
