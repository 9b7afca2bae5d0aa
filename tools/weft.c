/* The `weft` command: finds the subcommand, answers --help and --version, and leaves the rest to
 * the files beside this one.
 */
#include "tools/weft_tool.h"

#include <signal.h>
#include <string.h>

#ifndef WEFT_VERSION
#define WEFT_VERSION "0.1.0"
#endif

#define PROFILE_HELP                                                                               \
    "PROFILE is a pprof file (gzip or not), folded stacks, - for standard input,\n"                \
    "http://HOST:PORT[/path] or unix:/socket[:/path]; no path means /debug/pprof/profile.\n\n"     \
    "  -sample_index X   which column: a name or a number (default: the profile's own)\n"          \
    "  --seconds N       for a server: profile for N seconds\n"                                    \
    "  -o FILE           write there, whole or not at all (default: standard output)\n"

static const tool_command commands[] = {
    {"collapse", "o output sample_index seconds",
     "usage: weft collapse PROFILE [-o FILE]\n\n"
     "Prints folded stacks: one line per stack, frames from root to leaf separated by ';',\n"
     "a space and the value. Lines are sorted as LC_ALL=C sort does.\n\n" PROFILE_HELP,
     tool_collapse},
    {"flame", "o output sample_index seconds title width diff",
     "usage: weft flame PROFILE [-o x.svg]\n\n"
     "Draws a flame graph: one self-contained SVG, to be opened in a browser.\n\n" PROFILE_HELP
     "  --title TEXT      heading of the picture (default: program and profile type)\n"
     "  --width PIXELS    width before any script runs (default 1200)\n",
     tool_flame},
    {"top", "o output sample_index seconds n cum",
     "usage: weft top PROFILE [-n N] [--cum]\n\n"
     "Lists the functions that cost most, as go tool pprof -top does.\n\n" PROFILE_HELP
     "  -n N              rows (default 30, 0 for all)\n"
     "  --cum             sort by what was called as well, not by the function alone\n",
     tool_top},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static const char usage[] =
    "usage: weft COMMAND PROFILE [flags]\n\n"
    "  weft top PROFILE                 which functions cost most\n"
    "  weft flame PROFILE -o x.svg      a flame graph\n"
    "  weft collapse PROFILE            folded stacks\n\n"
    "PROFILE is a pprof file, folded stacks, -, http://HOST:PORT[/path] or unix:/socket[:/path].\n"
    "weft COMMAND --help says more, weft --version which one this is.\n";

static bool asks(const char *word, const char *a, const char *b)
{
    return strcmp(word, a) == 0 || strcmp(word, b) == 0;
}

/* Help goes to stdout when asked for, and an error in writing it is an error. */
static int print(const char *text)
{
    return fputs(text, stdout) < 0 || fflush(stdout) ? TOOL_FAILED : TOOL_OK;
}

int main(int argc, char **argv)
{
    /* A closed pipe shall be an error of write, not the silent end of the process half way. */
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        fputs(usage, stderr);
        return TOOL_USAGE;
    }
    if (asks(argv[1], "--help", "-h") || strcmp(argv[1], "help") == 0)
        return print(usage);
    if (asks(argv[1], "--version", "-version"))
        return print("weft " WEFT_VERSION "\n");
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        for (int k = 2; k < argc && strcmp(argv[k], "--") != 0; k++)
            if (asks(argv[k], "--help", "-help") || strcmp(argv[k], "-h") == 0)
                return print(commands[i].help);
        tool_args args;
        int rc = tool_args_parse(&args, &commands[i], argc - 2, argv + 2);
        return rc ? rc : commands[i].run(&args);
    }
    tool_error(argv[1], "unknown command (weft --help lists them)");
    return TOOL_USAGE;
}
