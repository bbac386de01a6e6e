/* Executes a program, and says so to plugin.c by an instruction that does nothing. */
#include <unistd.h>

int main(int count, char **words)
{
    (void)count;
    __asm__ volatile("nopl 0x544c5053(%rax,%rax,1)");
    execv(words[1], words + 1);
    return 127;
}
