// How the machine runs, in words for somebody who doesn't know what a hypervisor is. The technical words are in the
// diagnostics.
import type { Machine } from "../backend/words";
import { t } from "../texts";

export interface Runs {
  words: string;
  /** Why it is not better. */
  why?: string;
  /** What to do about it. */
  next?: string;
}

export function whereItRuns({ driver, accel, accel_note }: Pick<Machine, "driver" | "accel" | "accel_note">): Runs {
  switch (driver) {
    case "local":
      return { words: t("on this Linux itself") };
    case "wsl":
      return { words: t("in Windows’ own Linux (WSL)") };
    case "vfkit":
    case "krunkit":
      return { words: t("in a virtual machine of this Mac’s own") };
  }
  if (accel === "tcg")
    return {
      words: t("in a machine that is emulated in software: everything works, and is slow"),
      ...(accel_note ? { why: accel_note.trim().replace(/\.$/, "") } : {}),
      next: t("It gets quick where this user may use /dev/kvm (often: the group kvm) and virtualization is turned on in the computer’s firmware. Restart the engine afterwards."),
    };
  return { words: accel ? t("in a virtual machine, with this processor’s own help") : t("in a virtual machine"), ...(accel_note ? { why: accel_note } : {}) };
}
