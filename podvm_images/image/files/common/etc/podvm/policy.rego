# The policy of a pod whose initdata brings none: it lives, is watched and ends, and nobody gets into it. Whoever wants
# `kubectl exec`, exec probes or another agent policy writes one into initdata, where it is measured.
#
# A request that is not named here is an error, which refuses it.

package agent_policy

# The pod's life
default CreateSandboxRequest := true
default CreateContainerRequest := true
default StartContainerRequest := true
default SignalProcessRequest := true
default WaitProcessRequest := true
default RemoveContainerRequest := true
default DestroySandboxRequest := true
default PauseContainerRequest := true
default ResumeContainerRequest := true
default UpdateContainerRequest := true

# What is needed for it: images, files of volumes and secrets, memory, the network's settings, the clock
default PullImageRequest := true
default CopyFileRequest := true
default UpdateEphemeralMountsRequest := true
default UpdateInterfaceRequest := true
default UpdateRoutesRequest := true
default AddARPNeighborsRequest := true
default ListInterfacesRequest := true
default ListRoutesRequest := true
default OnlineCPUMemRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true
default ReseedRandomDevRequest := true
default SetGuestDateTimeRequest := true

# Watching: logs, metrics, what ended
default ReadStreamRequest := true
default StatsContainerRequest := true
default GetMetricsRequest := true
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default VolumeStatsRequest := true
default GetDiagnosticDataRequest := true # a container's last words (terminationMessagePath)

# Harmless for a pod that nobody can write to

default CloseStdinRequest := true
default TtyWinResizeRequest := true

# Refused: getting in (`kubectl exec`, exec probes, `kubectl attach -i`), other policies, changing the machine below it
default ExecProcessRequest := false
default WriteStreamRequest := false
default SetPolicyRequest := false
default StartTracingRequest := false
default StopTracingRequest := false
default GetIPTablesRequest := false
default SetIPTablesRequest := false
default ResizeVolumeRequest := false
default AddSwapRequest := false
default AddSwapPathRequest := false
default MemHotplugByProbeRequest := false
default MemAgentMemcgConfig := false
default MemAgentCompactConfig := false
