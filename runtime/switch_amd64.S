/* rt_switch(save, to) and rt_coro_start for x86-64, System V ABI.
 *
 * What the ABI says is callee-saved: rbx rbp r12-r15, the control bits of MXCSR and the x87 control
 * word. The control words are compared and only loaded when they differ: ldmxcsr and fldcw cost
 * more than the rest of the switch, and all coroutines but those that change rounding agree.
 *
 * The CFI is right at each instruction: both stacks have the same layout, so the moment rsp changes
 * the same rule describes the other stack. The return is a jump: a `ret` would mispredict every
 * time, because the return stack buffer belongs to the coroutine that was left.
 */
#if defined(__x86_64__)
        .text
        .globl  rt_switch
        .hidden rt_switch
        .type   rt_switch, @function
        .p2align 6
rt_switch:
        .cfi_startproc
        endbr64
        pushq   %rbp
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset rbp, 0
        pushq   %rbx
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset rbx, 0
        pushq   %r12
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r12, 0
        pushq   %r13
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r13, 0
        pushq   %r14
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r14, 0
        pushq   %r15
        .cfi_adjust_cfa_offset 8
        .cfi_rel_offset r15, 0
        subq    $8, %rsp
        .cfi_adjust_cfa_offset 8
        stmxcsr (%rsp)
        fnstcw  4(%rsp)
        movl    (%rsp), %eax
        movzwl  4(%rsp), %ecx
        movq    %rsp, (%rdi)
        movq    %rsi, %rsp
        xorl    (%rsp), %eax
        testl   $0xffc0, %eax           /* the control bits; status bits are nobody's */
        jne     2f
1:      cmpw    4(%rsp), %cx
        jne     3f
4:      addq    $8, %rsp
        .cfi_adjust_cfa_offset -8
        popq    %r15
        .cfi_adjust_cfa_offset -8
        .cfi_restore r15
        popq    %r14
        .cfi_adjust_cfa_offset -8
        .cfi_restore r14
        popq    %r13
        .cfi_adjust_cfa_offset -8
        .cfi_restore r13
        popq    %r12
        .cfi_adjust_cfa_offset -8
        .cfi_restore r12
        popq    %rbx
        .cfi_adjust_cfa_offset -8
        .cfi_restore rbx
        popq    %rbp
        .cfi_adjust_cfa_offset -8
        .cfi_restore rbp
        popq    %rcx
        .cfi_adjust_cfa_offset -8
        .cfi_register rip, rcx
        notrack jmp *%rcx
        .cfi_adjust_cfa_offset 64
        .cfi_offset rip, -8
        .cfi_offset rbp, -16
        .cfi_offset rbx, -24
        .cfi_offset r12, -32
        .cfi_offset r13, -40
        .cfi_offset r14, -48
        .cfi_offset r15, -56
2:      ldmxcsr (%rsp)
        jmp     1b
3:      fldcw   4(%rsp)
        jmp     4b
        .cfi_endproc
        .size   rt_switch, .-rt_switch

        .globl  rt_coro_start
        .hidden rt_coro_start
        .type   rt_coro_start, @function
        .p2align 4
        .cfi_startproc
        .cfi_undefined rip
        nop                             /* pc - 1 of the first instruction is still in here */
rt_coro_start:
        endbr64
        xorl    %ebp, %ebp
        call    rt_coro_main
        ud2
        .cfi_endproc
        .size   rt_coro_start, .-rt_coro_start

        .section .note.GNU-stack, "", @progbits
        .section .note.gnu.property, "a"
        .p2align 3
        .long   4, 16, 5
        .asciz  "GNU"
        .long   0xc0000002, 4, 1, 0     /* x86 feature 1: IBT, not SHSTK: SSP stays */
#endif
