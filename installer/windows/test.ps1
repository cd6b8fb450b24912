# What only Windows can tell: the installer, and a machine in the real WSL. Wants docker's command line in PATH.
param([Parameter(Mandatory)] [string] $Setup)
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $true

function Assert($condition, $words) { if (-not $condition) { throw $words } }

# How the machine is, also where it doesn't run: then `coracle status` answers with another exit code.
function Get-Machine {
    $PSNativeCommandUseErrorActionPreference = $false # in here alone
    & $coracle status --json | ConvertFrom-Json
}

# Waits for a state.
function Wait-Machine($state) {
    for ($n = 0; $n -lt 150; $n++) {
        $machine = Get-Machine
        if ($machine.state -eq $state) { return $machine }
        Start-Sleep -Milliseconds 200
    }
    throw "the machine never was ${state}: $($machine | ConvertTo-Json -Compress)"
}

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
    docker -H $pipe run --rm -v kept:/x coracle/welcome busybox sh -c 'touch /x/file && sync'

    # The daemon is killed: the machine goes on, and the next start takes it over with its ports.
    $before = Get-Machine
    $daemon = Get-Process -Id $before.daemon.pid
    Stop-Process -Force -InputObject $daemon
    Assert ($daemon.WaitForExit(10000)) 'the daemon could not be killed'
    Assert ((Get-Machine).state -eq 'stopped') 'somebody answers in the place of a daemon that was killed'
    & $coracle start
    $after = Get-Machine
    Assert ($after.state -eq 'running' -and $after.pid -eq $before.pid) 'the machine was started anew instead of being taken over'
    Assert ((docker -H $pipe inspect --format '{{.State.Running}}' web) -eq 'true') 'a container did not outlive the daemon'
    Assert ((curl.exe --fail --silent --retry 20 --retry-all-errors --retry-delay 1 "http://$address/") -match 'container') 'a published port did not come back'

    # The distribution is ended by somebody else: that is said, and the next start brings back what was written.
    wsl --terminate coracle
    $failed = Wait-Machine 'failed'
    Assert ($failed.error.code -eq 'wsl_died') "the end of the distribution was said as $($failed.error.code)"
    & $coracle start
    Assert ((docker -H $pipe run --rm -v kept:/x coracle/welcome busybox ls /x) -eq 'file') 'a terminated distribution lost what was written'

    # At login: a file in the Startup folder, and none afterwards.
    & $coracle autostart on
    $entry = Join-Path ([Environment]::GetFolderPath('Startup')) 'Coracle.cmd'
    Assert ((Test-Path $entry) -and (& $coracle autostart status) -eq 'on') 'nothing starts at login'
    & $coracle autostart off
    Assert (-not (Test-Path $entry) -and (& $coracle autostart status) -eq 'off') 'a file is left in the Startup folder'

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
