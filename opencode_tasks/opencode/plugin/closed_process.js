// In a sandbox, closes this process to the other programs inside, which run as the same user.
//
// Without it, they could read its memory, or take its connection to the relay (ptrace(2), pidfd_getfd(2),
// /proc/PID). The kernel refuses that for a process that may not be dumped (prctl(2), PR_SET_DUMPABLE). A
// program that it starts is as usual: execve(2) sets the flag again.

import { dlopen } from "bun:ffi"

const PR_SET_DUMPABLE = 4
const LIBRARIES = ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1"]
const PRCTL = { args: ["i32", "u64", "u64", "u64", "u64"], returns: "i32" }

export function closeProcess() {
  for (const library of LIBRARIES) {
    let libc
    try {
      libc = dlopen(library, { prctl: PRCTL })
    } catch {
      continue
    }
    return libc.symbols.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) === 0
  }
  return false
}
