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

!define UNINSTALL "Software\Microsoft\Windows\CurrentVersion\Uninstall\Coracle"
!define LINKS "Software\Classes\coracle"
; NSIS' strings end at 1024 characters: a longer PATH would be cut off, so it is left alone.
!define LONGEST_PATH 900

Page directory
Page instfiles
UninstPage uninstConfirm
UninstPage instfiles

; What runs holds its program open: the window is closed and the daemon stops, in order, before anything is replaced. The
; window's program may take a moment more to end: seconds are waited for.
!macro Stop
  IfFileExists "$INSTDIR\bin\coracle-desktop.exe" 0 closed
  DetailPrint "Closing the window"
  nsExec::Exec '"$INSTDIR\bin\coracle-desktop.exe" --quit'
  StrCpy $0 0
  close:
  ClearErrors
  Delete "$INSTDIR\bin\coracle-desktop.exe"
  IfErrors 0 closed
  Sleep 100
  IntOp $0 $0 + 1
  IntCmp $0 100 closed close closed
  closed:
  IfFileExists "$INSTDIR\bin\coracle.exe" 0 stopped
  DetailPrint "Stopping the machine"
  nsExec::Exec '"$INSTDIR\bin\coracle.exe" stop'
  stopped:
!macroend

Section
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
  without_app:
  ; The command line is found by its name from new terminals on.
  ReadRegStr $0 HKCU "Environment" "Path"
  StrLen $1 $0
  IntCmp $1 ${LONGEST_PATH} 0 0 long
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
  ReadRegStr $0 HKCU "Environment" "Path"
  StrLen $1 $0
  IntCmp $1 ${LONGEST_PATH} 0 0 kept
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
  kept:
  Delete "$SMPROGRAMS\Coracle.lnk"
  DeleteRegKey HKCU "${LINKS}"
  RMDir /r "$INSTDIR\bin"
  RMDir /r "$INSTDIR\share"
  RMDir /r "$INSTDIR\doc"
  Delete "$INSTDIR\uninstall.exe"
  RMDir "$INSTDIR"
  DeleteRegKey HKCU "${UNINSTALL}"
  DeleteRegKey HKCU "Software\Coracle"
  DetailPrint "Images, containers and volumes stay in $LOCALAPPDATA\Coracle and in the WSL distribution coracle ('coracle delete' before removing Coracle takes them away, 'wsl --unregister coracle' afterwards)"
SectionEnd
