; The installer of Windows, by Debian's nsis (`cargo xtask dist --os windows` gives VERSION, FILES and OUT).
; For one user, without an administrator: programs in %LOCALAPPDATA%\Programs\Coracle, what is the user's in
; %LOCALAPPDATA%\Coracle. /S installs, upgrades and removes silently; /D=FOLDER (last) names another folder.

Unicode true
Target amd64-unicode
ManifestDPIAware true
RequestExecutionLevel user
SetCompressor /SOLID lzma
Name "Coracle"
OutFile "${OUT}"
InstallDir "$LOCALAPPDATA\Programs\Coracle"
InstallDirRegKey HKCU "Software\Coracle" "Folder"
ShowInstDetails show
ShowUninstDetails show
VIProductVersion "${VERSION}.0"
VIAddVersionKey "ProductName" "Coracle"
VIAddVersionKey "ProductVersion" "${VERSION}"
VIAddVersionKey "FileVersion" "${VERSION}"
VIAddVersionKey "FileDescription" "Coracle: Linux containers on this computer"
VIAddVersionKey "LegalCopyright" "The Coracle project"

!include x64.nsh

!define UNINSTALL "Software\Microsoft\Windows\CurrentVersion\Uninstall\Coracle"
!define LINKS "Software\Classes\coracle"
; Under this name Windows shows what the window's program tells (the identifier in src-tauri/tauri.conf.json).
!define TELLS "Software\Classes\AppUserModelId\dev.coracle.desktop"
; NSIS' strings end at 1024 characters: a longer PATH is left alone.
!define LONGEST_PATH 900

Page directory
Page instfiles
UninstPage uninstConfirm
UninstPage instfiles

; The user's own PATH in $0, empty where there is none; goes to TOO_LONG where it can't be held. NSIS gives nothing for one that is
; longer than its strings, as it does where there is none: so its name is looked for. Whoever wrote that back would have lost it.
!macro ReadPath TOO_LONG
  ClearErrors
  ReadRegStr $0 HKCU "Environment" "Path"
  IfErrors 0 read
  StrCpy $1 0
  name:
    EnumRegValue $2 HKCU "Environment" $1
    StrCmp $2 "" read
    StrCmp $2 "Path" ${TOO_LONG}
    IntOp $1 $1 + 1
    Goto name
  read:
  StrLen $1 $0
  IntCmp $1 ${LONGEST_PATH} 0 0 ${TOO_LONG}
!macroend

; Takes a program away. It can't be while it runs: its end may take a moment, and a scanner for viruses a moment more; ten
; seconds are waited for. One that goes on (`coracle logs --follow` in a terminal) makes room under another name, which the
; next installation takes away.
!macro Away PROGRAM LABEL
  StrCpy $0 0
  ${LABEL}_away:
  ClearErrors
  Delete "$INSTDIR\bin\${PROGRAM}.exe"
  IfErrors 0 ${LABEL}_gone
  Sleep 100
  IntOp $0 $0 + 1
  IntCmp $0 100 0 ${LABEL}_away
  DetailPrint "${PROGRAM} still runs"
  Delete "$INSTDIR\bin\${PROGRAM}.old"
  Rename "$INSTDIR\bin\${PROGRAM}.exe" "$INSTDIR\bin\${PROGRAM}.old"
  ${LABEL}_gone:
!macroend

; What runs holds its program open: the window is closed and the daemon stops, in order, before anything is replaced.
!macro Stop
  IfFileExists "$INSTDIR\bin\coracle-desktop.exe" 0 closed
  DetailPrint "Closing the window"
  nsExec::Exec '"$INSTDIR\bin\coracle-desktop.exe" --quit'
  !insertmacro Away coracle-desktop window
  closed:
  IfFileExists "$INSTDIR\bin\coracle.exe" 0 stopped
  DetailPrint "Stopping the machine"
  nsExec::Exec '"$INSTDIR\bin\coracle.exe" stop'
  !insertmacro Away coracle daemon
  stopped:
!macroend

Function .onInit
  ; WSL there runs an ARM64 kernel, and the machine that is brought along is one of x64.
  ${If} ${IsNativeARM64}
    MessageBox MB_OK|MB_ICONSTOP "This Windows runs on an ARM64 processor. This Coracle is made for x64, and its machine can't run there." /SD IDOK
    SetErrorLevel 2
    Quit
  ${EndIf}
FunctionEnd

Section
  ; What is replaced and removed below is ours alone: a folder that has others' things by those names gets one of ours in it.
  ReadRegStr $0 HKCU "Software\Coracle" "Folder"
  StrCmp $0 $INSTDIR own
  IfFileExists "$INSTDIR\bin\coracle*" own
  IfFileExists "$INSTDIR\bin\*.*" others
  IfFileExists "$INSTDIR\share\*.*" others
  IfFileExists "$INSTDIR\doc\*.*" others own
  others:
  StrCpy $INSTDIR "$INSTDIR\Coracle"
  DetailPrint "Installing into $INSTDIR"
  own:
  !insertmacro Stop
  ; What an older version had and this one hasn't.
  RMDir /r "$INSTDIR\bin"
  RMDir /r "$INSTDIR\share"
  RMDir /r "$INSTDIR\doc"
  SetOutPath "$INSTDIR"
  File /r "${FILES}/*"
  WriteUninstaller "$INSTDIR\uninstall.exe"
  WriteRegStr HKCU "Software\Coracle" "Folder" "$INSTDIR"
  WriteRegStr HKCU "${UNINSTALL}" "DisplayName" "Coracle"
  WriteRegStr HKCU "${UNINSTALL}" "DisplayVersion" "${VERSION}"
  WriteRegStr HKCU "${UNINSTALL}" "Publisher" "The Coracle project"
  WriteRegStr HKCU "${UNINSTALL}" "InstallLocation" "$INSTDIR"
  WriteRegStr HKCU "${UNINSTALL}" "UninstallString" '"$INSTDIR\uninstall.exe"'
  WriteRegStr HKCU "${UNINSTALL}" "QuietUninstallString" '"$INSTDIR\uninstall.exe" /S'
  WriteRegDWORD HKCU "${UNINSTALL}" "NoModify" 1
  WriteRegDWORD HKCU "${UNINSTALL}" "NoRepair" 1
  IfFileExists "$INSTDIR\bin\coracle-desktop.exe" 0 without_app
    CreateShortcut "$SMPROGRAMS\Coracle.lnk" "$INSTDIR\bin\coracle-desktop.exe"
    WriteRegStr HKCU "${UNINSTALL}" "DisplayIcon" "$INSTDIR\bin\coracle-desktop.exe"
    ; coracle://containers/NAME/logs and the like lead into the window.
    WriteRegStr HKCU "${LINKS}" "" "URL:Coracle"
    WriteRegStr HKCU "${LINKS}" "URL Protocol" ""
    WriteRegStr HKCU "${LINKS}\shell\open\command" "" '"$INSTDIR\bin\coracle-desktop.exe" "%1"'
    WriteRegStr HKCU "${TELLS}" "DisplayName" "Coracle"
  without_app:
  ; The command line is found by its name from new terminals on.
  !insertmacro ReadPath long
  Push $0
  Call OnPath
  Pop $2
  StrCmp $2 "1" done
  StrCmp $0 "" 0 +3
    WriteRegExpandStr HKCU "Environment" "Path" "$INSTDIR\bin"
    Goto told
  WriteRegExpandStr HKCU "Environment" "Path" "$0;$INSTDIR\bin"
  told:
  SendMessage 0xFFFF 0x001A 0 "STR:Environment" /TIMEOUT=2000
  Goto done
  long:
  DetailPrint "PATH is too long to be changed here: add $INSTDIR\bin to it yourself"
  done:
SectionEnd

; Whether the folder of our programs is an entry of the PATH that is pushed.
Function OnPath
  Exch $0
  Push $1
  Push $2
  Push $3
  StrCpy $0 ";$0;"
  StrCpy $3 ";$INSTDIR\bin;"
  StrLen $1 $3
  loop:
    StrCpy $2 $0 $1
    StrCmp $2 "" no
    StrCmp $2 $3 yes
    StrCpy $0 $0 "" 1
    Goto loop
  yes:
    StrCpy $0 "1"
    Goto end
  no:
    StrCpy $0 "0"
  end:
  Pop $3
  Pop $2
  Pop $1
  Exch $0
FunctionEnd

Section "Uninstall"
  IfFileExists "$INSTDIR\bin\coracle.exe" 0 not_at_login
  nsExec::Exec '"$INSTDIR\bin\coracle.exe" autostart off'
  not_at_login:
  !insertmacro Stop
  ; What the window made beside its folder: its start at login, and what the web view keeps.
  DeleteRegValue HKCU "Software\Microsoft\Windows\CurrentVersion\Run" "Coracle"
  DeleteRegValue HKCU "Software\Microsoft\Windows\CurrentVersion\Explorer\StartupApproved\Run" "Coracle"
  RMDir /r "$LOCALAPPDATA\dev.coracle.desktop"
  ; Our entry of PATH, wherever it stands.
  !insertmacro ReadPath long
  StrCpy $3 ";$INSTDIR\bin;"
  StrLen $4 $3
  StrCpy $5 ""
  StrCpy $0 ";$0;"
  StrCpy $9 "0"
  loop:
    StrCmp $0 "" found
    StrCpy $6 $0 $4
    StrCmp $6 $3 0 next
      StrCpy $9 "1"
      StrCpy $0 $0 "" $4
      StrCpy $0 ";$0"
      Goto loop
    next:
    StrCpy $6 $0 1
    StrCpy $5 "$5$6"
    StrCpy $0 $0 "" 1
    Goto loop
  found:
  StrCmp $9 "1" 0 kept
  ; Without the two marks at the ends.
  StrCpy $5 $5 "" 1
  StrLen $1 $5
  IntCmp $1 0 gone gone 0
  StrCpy $5 $5 -1
  StrCmp $5 "" gone
  WriteRegExpandStr HKCU "Environment" "Path" $5
  Goto told
  gone:
  DeleteRegValue HKCU "Environment" "Path"
  told:
  SendMessage 0xFFFF 0x001A 0 "STR:Environment" /TIMEOUT=2000
  Goto kept
  long:
  DetailPrint "PATH is too long to be changed here: take $INSTDIR\bin out of it yourself"
  kept:
  Delete "$SMPROGRAMS\Coracle.lnk"
  DeleteRegKey HKCU "${LINKS}"
  DeleteRegKey HKCU "${TELLS}"
  RMDir /r "$INSTDIR\bin"
  RMDir /r "$INSTDIR\share"
  RMDir /r "$INSTDIR\doc"
  Delete "$INSTDIR\uninstall.exe"
  RMDir "$INSTDIR"
  DeleteRegKey HKCU "${UNINSTALL}"
  DeleteRegKey HKCU "Software\Coracle"
  DetailPrint "Images, containers and volumes stay in $LOCALAPPDATA\Coracle and in the WSL distribution coracle ('coracle delete' before removing Coracle takes them away, 'wsl --unregister coracle' afterwards)"
SectionEnd
