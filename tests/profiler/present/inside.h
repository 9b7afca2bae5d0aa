/* Functions whose debug information says that they are written in the library's rooms. */
FAKE_FUNCTION(static_helper)
#line 1 "/lib/weft/runtime/chan.c"
FAKE_FUNCTION(wait_locked)
#line 1 "/lib/weft/profiler/collect/raw.c"
NOINLINE UNUSED static void raw_free_inside(pf_raw *raw)
{
    fake_raw_free(raw);
}
#line 1 "/elsewhere/runtime/main.c"
FAKE_FUNCTION(user_runtime)
