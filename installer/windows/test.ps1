# What only Windows can tell: the installer, and a machine in the real WSL. Wants docker's command line in PATH.
param([Parameter(Mandatory)] [string] $Setup)
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $true

function Assert($condition, $words) { if (-not $condition) { throw $words } }

$home_ = "$env:LOCALAPPDATA\Programs\Coracle"
Start-Process -Wait $Setup /S
Assert (Test-Path "$home_\bin\coracle.exe") 'nothing was installed'
$coracle = "$home_\bin\coracle.exe"
$desktop = "$home_\bin\coracle-desktop.exe"
try {
    # The window: it is there, a link leads to it, and an installer can close it.
    $window = Start-Process -PassThru $desktop
    for ($n = 0; $n -lt 100 -and $window.MainWindowTitle -notmatch 'Coracle'; $n++) { Start-Sleep -Milliseconds 200; $window.Refresh() }
    Assert ($window.MainWindowTitle -match 'Coracle') 'the window did not open'
    Assert ((Get-ItemProperty 'HKCU:\Software\Classes\coracle\shell\open\command').'(default)' -match 'coracle-desktop') 'coracle:// leads nowhere'
    Start-Process -Wait $desktop '--quit'
    Assert ($window.WaitForExit(10000)) 'the window was not closed'
    & $coracle start
    $pipe = (& $coracle env | Select-String 'npipe:\S+').Matches[0].Value.Trim('"', "'")
    Assert ((docker -H $pipe run --rm coracle/welcome busybox uname -s) -eq 'Linux') 'no container ran'
    $share = New-Item -ItemType Directory "$env:USERPROFILE\coracle-test"
    Set-Content -NoNewline "$share\file" 'shared'
    Assert ((docker -H $pipe run --rm -v "${share}:/x" coracle/welcome busybox cat /x/file) -eq 'shared') 'a folder of drive C was not mounted'
    docker -H $pipe run --detach --name web --publish 127.0.0.1::80 coracle/welcome
    $address = docker -H $pipe port web 80/tcp
    Assert ((curl.exe --fail --silent --retry 20 --retry-all-errors --retry-delay 1 "http://$address/") -match 'container') 'a published port did not answer'
    docker -H $pipe volume create kept
    # The same once more, while the window is open: an upgrade closes it and stops the machine, and keeps what is in it.
    $window = Start-Process -PassThru $desktop
    Start-Process -Wait $Setup /S
    Assert ($window.HasExited -and (Test-Path $desktop)) 'the window was in the way of the upgrade'
    & $coracle start
    Assert ((docker -H $pipe volume ls --quiet) -contains 'kept') 'the upgrade lost a volume'
}
finally {
    & $coracle logs -n 80
    & $coracle delete --force
    Remove-Item -Recurse -Force -ErrorAction SilentlyContinue "$env:USERPROFILE\coracle-test"
}
Assert (-not ((wsl --list --quiet) -replace "`0" -contains 'coracle')) 'the distribution is left behind'
Start-Process -Wait "$home_\uninstall.exe" '/S', "_?=$home_"
Assert (-not (Test-Path "$home_\bin")) 'files are left behind'
Assert (-not (Test-Path 'HKCU:\Software\Classes\coracle')) 'coracle:// is left behind'
